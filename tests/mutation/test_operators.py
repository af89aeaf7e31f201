import pytest

from tests.mutation.operators import changes


def changed(source: str) -> set[str]:
    """All results of one change."""
    content = source.encode()
    return {
        (content[: change.start] + change.replacement.encode() + content[change.end :]).decode()
        for change in changes(source)
    }


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a < b", {"a <= b"}),
        ("a <= b < c", {"a < b < c", "a <= b <= c"}),
        ("(a) is not (b)", {"(a) is (b)"}),
        ("a not  in b", {"a in b"}),
        ("a + b", {"a - b"}),
        ("a // (b * c)", {"a * (b * c)", "a // (b / c)"}),
        ("a += b", {"a -= b"}),
        ("a and b and c", {"a or b and c", "a and b or c"}),
        ("not a", {"a"}),
        ("-a", {"a"}),
        ("a = 0", {"a = 1"}),
        ("a = 3", {"a = 4", "a = 2"}),
        ("a = 0.5", {"a = 1.0"}),
        ("a = 0.0", {"a = 1.0"}),
        ("a = True", {"a = False"}),
        ("a = 'text', None", set()),
        ("a if b else c", {"a if not (b) else c"}),
        ("[a for a in b if c]", {"[a for a in b if True]"}),
        ("for a in b: continue", {"for a in b: break"}),
        ("f(a)", {"pass"}),
        ("a = min(b, c)", {"a = max(b, c)"}),
        ("a = b.all()", {"a = b.any()"}),
        ("a = sum(b)", set()),  # mean is no built-in function
        ("a = b.sum()", {"a = b.mean()"}),
        ("a = (b / c).detach()", {"a = (b * c).detach()", "a = (b / c)"}),
        ("a = torch.exp(b)", {"a = (b)"}),
        ("a = b.clamp(min=c, max=d)", {"a = b", "a = b.clamp(min=None, max=d)", "a = b.clamp(min=c, max=None)"}),
        ("a = torch.where(b, c, d)", {"a = torch.where(b, d, c)"}),
        ("a = zip(b, strict=True)", set()),
        ("a = isinstance(b, c | d)", set()),
        ("raise Error(1 + 2)", set()),
        ("a = f'{1 + 2}'", set()),
        ("a: b | c = d | e", {"a: b | c = d & e"}),
        (
            "def f(a: b | c, d=1) -> e | f: ...",
            {"def f(a: b | c, d=2) -> e | f: ...", "def f(a: b | c, d=0) -> e | f: ..."},
        ),
        ("@torch.no_grad()\ndef f(): ...", {"@torch.enable_grad()\ndef f(): ..."}),
        ("class A:\n    '''Text: 1 < 2.'''\n    super().f()", set()),
        ("a = 'σ', b < c  # places are counted in bytes", {"a = 'σ', b <= c  # places are counted in bytes"}),
    ],
)
def test_changes(source, expected):
    assert changed(source) == expected


def test_a_change_knows_its_function():
    source = "a = 0\nclass B:\n    c = 0\n    def d(self, e=0):\n        def f(): return 0\n"
    assert [change.scope for change in sorted(changes(source))] == ["", "B", "B.d", "B.d.f"]
