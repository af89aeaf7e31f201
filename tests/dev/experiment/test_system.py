import pytest

from dev.experiment.system import System
from fcos_rpn import UserError


def test_systems_share_all_but_what_is_compared(make_experiment):
    experiment = make_experiment(short_side=400)
    anchors, fcos = (experiment.build_config(name, rate=0.01, seed=1) for name in ("rpn_gn", "fcos_rpn"))
    assert anchors.SOLVER == fcos.SOLVER
    assert anchors.INPUT == fcos.INPUT
    assert anchors.DATASETS == fcos.DATASETS
    assert anchors.MODEL.BACKBONE == fcos.MODEL.BACKBONE
    assert anchors.MODEL.FPN == fcos.MODEL.FPN
    assert anchors.MODEL.RPN.IN_FEATURES == fcos.MODEL.RPN.IN_FEATURES == ["p2", "p3", "p4", "p5", "p6"]
    # 8 x stride at 800 pixels, half of that at 400
    assert anchors.MODEL.ANCHOR_GENERATOR.SIZES == [[16.0], [32.0], [64.0], [128.0], [256.0]]
    assert fcos.MODEL.FCOS.SIZES_OF_INTEREST == [16.0, 32.0, 64.0, 128.0]


def test_budget_and_folder_of_a_run(make_experiment, tmp_path):
    experiment = make_experiment(iterations=240)
    whole = experiment.build_config("fcos_rpn", rate=0.02, seed=3)
    assert (whole.SOLVER.MAX_ITER, whole.TEST.EVAL_PERIOD, whole.SOLVER.BASE_LR, whole.SEED) == (240, 40, 0.02, 3)
    assert f"{tmp_path}/output/fcos_rpn/seed3" == whole.OUTPUT_DIR
    assert (whole.SOLVER.WARMUP_ITERS, whole.SOLVER.IMS_PER_BATCH) == (50, 8)
    fold = [tmp_path / "a.json", tmp_path / "b.json"]
    on_fold = experiment.build_config("fcos_rpn", rate=0.02, seed=0, fold=fold)
    # A quarter of everything: 240 / 4 and 50 // 4.
    assert (on_fold.SOLVER.MAX_ITER, on_fold.SOLVER.WARMUP_ITERS) == (60, 12)
    assert f"{tmp_path}/output/fcos_rpn/rate0.02" == on_fold.OUTPUT_DIR
    images = experiment.args.train[0]
    assert [[images, f"{tmp_path}/a.json"]] == on_fold.DATASETS.TRAIN_FOLDERS
    assert [[images, f"{tmp_path}/b.json"]] == on_fold.DATASETS.TEST_FOLDERS


def test_the_one_stage_role_scales_its_own_levels(make_experiment):
    experiment = make_experiment(systems={"fcos": System("FCOS", "custom/fcos_mobilenet_v2.yaml")}, short_side=400)
    cfg = experiment.build_config("fcos", rate=0.01, seed=1)
    assert cfg.MODEL.FCOS.SIZES_OF_INTEREST == [32.0, 64.0, 128.0, 256.0]  # P3-P7


def test_overrides_make_another_system():
    system = System("two", "fcos_rpn.yaml", ["MODEL.FCOS.NUM_CONVS", 2, "MODEL.RPN.IN_FEATURES", ["p2", "p3"]])
    cfg = system.read_config()
    assert (cfg.MODEL.FCOS.NUM_CONVS, cfg.MODEL.RPN.IN_FEATURES) == (2, ["p2", "p3"])
    with pytest.raises(UserError, match="there is no config key MODEL"):
        System("typo", "fcos_rpn.yaml", ["MODEL.FCOS.NUM_CONV", 2]).read_config()
