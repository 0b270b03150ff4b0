"""How the page reads text: what of Markdown it shows, what it never eats, and that none costs more than linear time."""

import pytest
from page_scripts import patterns, run, sources

PATTERNS = {
    r"/\s/": [],
    r"/[0-9]/": [],
    r"/[A-Za-z0-9]/": [],
    r"/[\p{P}\p{S}]/u": [],
    r"/[\p{L}\p{N}_]/u": [],
    r"/[!-/:-@[-`{-~]/": [],
    r"/`+/g": ["`"],
    r"/\p{L}+/gu": ["a"],
    r"/^[A-Za-z0-9_]+$/": ["a"],
    r"/^\[([ xX])\]\s/": ["[x]", "[ ] "],
    r"/^data:image\/(?:png|jpeg|gif|webp);base64,/": ["data:image/png;base64,"],
    r"/^data:image\/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]+$/": ["data:image/png;base64,A"],
    r"/\\(?:text|textbf|textit|mathrm|mathbf|mathit|mathcal|mathbb|mathsf|operatorname|label|tag)\*?\{[^{}]*\}"
    r"|\\[A-Za-z]+/g": [r"\text{", r"\tag*{", r"\textb", r"\a"],
    r"/[\\`*_~[!<$\n]|https?:\/\//g": ["http", "https:/"],
    r"/<((?:https?:\/\/|mailto:)[^\s<>]+)>/y": ["<http://a", "<mailto:a"],
    r"""/https?:\/\/[^\s<>"'`]+/y""": ["http://a"],
    r"""/[.!?…:。！？]["')\]»”]*\s|\n|[。！？]/g""": [".", '."', ".)"],
}
"""Every regular expression of the page, and how texts begin that it nearly matches."""


def test_every_pattern_of_the_page_has_a_row_and_every_row_a_pattern():
    found = {pattern for source in sources().values() for pattern in patterns(source)}
    assert found == set(PATTERNS)
    assert not [name for name, source in sources().items() if "RegExp(" in source], "patterns that nobody sees"


def test_patterns_are_found_where_they_stand():
    source = r"""// no /pattern/ here
    a = b / c / d; f(/x\/[/]y/g); `${g / 2 / h} /no/ ${/yes/.test("/no/")}`; /* /no/ */ return /z/u;
    const x = {a: /p/}; y = (1) / 2; '"/no/"'; k[0] / 3 / 2"""
    assert list(patterns(source)) == [r"/x\/[/]y/g", "/yes/", "/z/u", "/p/"]


@pytest.mark.brief
def test_no_pattern_and_no_shape_takes_more_than_linear_time():
    assert run("linear.mjs", {"patterns": PATTERNS, "thorough": False, "short": 8192}) == []


@pytest.mark.slow
def test_no_text_takes_more_than_linear_time():
    assert run("linear.mjs", {"patterns": PATTERNS, "thorough": True, "short": 8192}) == []


@pytest.mark.slow
def test_the_measure_tells_a_square():
    found = run("linear.mjs", {"patterns": {r"/[ \t]+$/": []}, "thorough": False, "short": 2500})
    assert {what for what, *_ in found} == {r"/[ \t]+$/"}


def shown(*texts: str) -> list[str]:
    """The HTML of texts, without attributes."""
    return [told["html"] for told in run("render.mjs", texts)]


def test_emphasis_follows_the_rules_of_flanking_runs():
    """Cases of https://spec.commonmark.org/0.31.2/#emphasis-and-strong-emphasis in words of our own."""
    told = dict(zip(EMPHASIS, shown(*EMPHASIS), strict=True))
    assert told == {text: f"<p>{html}</p>" for text, html in EMPHASIS.items()}


EMPHASIS = {
    "so *it* is": "so <em>it</em> is",
    "so _it_ is": "so <em>it</em> is",
    "so **it** is": "so <strong>it</strong> is",
    "so ***it*** is": "so <em><strong>it</strong></em> is",
    "so ~~it~~ is": "so <del>it</del> is",
    "so ~it~ is": "so ~it~ is",
    "a * b * c": "a * b * c",
    "a *b* c*": "a <em>b</em> c*",
    "это*важно*": "это<em>важно</em>",
    "это_не_важно": "это_не_важно",
    "这是**重点**内容": "这是<strong>重点</strong>内容",
    'so**"it"**is': 'so**"it"**is',
    "(**it**)": "(<strong>it</strong>)",
    "**(it)**": "<strong>(it)</strong>",
    "_(it)_.": "<em>(it)</em>.",
    "*one **two** three*": "<em>one <strong>two</strong> three</em>",
    "**one *two* three**": "<strong>one <em>two</em> three</strong>",
    "***one** two*": "<em><strong>one</strong> two</em>",
    "***one* two**": "<strong><em>one</em> two</strong>",
    "*one _two* three_": "<em>one _two</em> three_",
    "**one*": "*<em>one</em>",
    "*one**": "<em>one</em>*",
    "*один**два**три*": "<em>один<strong>два</strong>три</em>",
    "*один**два*": "<em>один**два</em>",
    "H**yper**T**ext**": "H<strong>yper</strong>T<strong>ext</strong>",
    "*a `*` b*": "<em>a <code>*</code> b</em>",
    "*[a*](http://x.org/)": "*<a href=http://x.org/>a*</a>",
    r"\*it\*": "*it*",
}

KEPT = [
    "2 * 3 * 4", "5*3*2", "2*(3+4)*5", "x**2 + y**2 = z**2", "2**3**4", "a*b*c", "int *p, *q;", "f(*args, **kwargs)",
    "src/**/*.ts, lib/**/*.ts", "**/*.js and **/*.py", "*.c and *.h", "snake_case_name", "__init__.py",
    "_id and _name", "MAX_SIZE_", "costs $5 and $6", "$5-$10", "US$5 or A$6", "between $5 and 10$", "$1,000.50, $2",
    "from $5/month, $10/year", "$100M–$200M", "$HOME/bin:$PATH", "${A}-${B}", "$(pwd)/$(date)", "echo $? and $!",
    "$$ is the process", "$$5 for you", "a $name$ of a template", "if a > b: c >> d", "x -> y => z", "a < b > c",
    "#include", "100% ~ 50%", "~/a and ~/b", "a | b || c", "x[i](y)", "callbacks[0](see note)",
    "[guide](docs/guide.md)", "C:/a_b/c_d", "1 ` tick", "<T> and <div>", "a&b &amp; c", "!important", "[ ] box",
]  # fmt: skip
"""What is read as it is written."""


def test_signs_of_reckoning_prices_paths_and_names_are_shown_and_told_as_they_were_written():
    for text, told in zip(KEPT, run("render.mjs", KEPT), strict=True):
        assert told["html"] == f"<p>{text}</p>"
        assert told["said"] == text


def test_a_comparison_at_the_start_of_a_line_is_no_quote():
    assert shown(">50 of them", ">= 5", "> quoted", ">quoted") == [
        "<p>>50 of them</p>", "<p>>= 5</p>", "<blockquote><p>quoted</p></blockquote>",
        "<blockquote><p>quoted</p></blockquote>",
    ]  # fmt: skip


def test_code_is_shown_and_told_to_the_letter():
    code = 'if a > b and *p == "$x_y_z":\n    return `a` ** 2  # > 5'
    told = run("render.mjs", [f"```c\n{code}\n```", "say `a > *b* _c_ $d$`."])
    assert [one["said"] for one in told] == [code, "say a > *b* _c_ $d$."]


MATH = [
    "x",
    "n",
    "2n",
    "ABC",
    "E = mc^2",
    r"\alpha",
    "f(x)",
    r"O(n \log n)",
    "10",
    "2 + 3 = 5",
    r"\text{a sum of all}",
    "x_1, x_2",
    "-1",
]


def test_formulas_are_told_by_their_source_and_nothing_else_is_a_formula():
    for tex, told in zip(MATH, run("render.mjs", [f"so ${tex}$ is" for tex in MATH]), strict=True):
        assert told["html"] == f"<p>so <span>{tex}</span> is</p>"
        assert told["said"] == f"so ${tex}$ is"
    assert shown(r"\(x^2\) and \[y\]", r"\(no formula\)", "$$x^2$$", "$$\nx^2\n$$") == [
        "<p><span>x^2</span> and <span>y</span></p>", "<p>(no formula)</p>", "<span>x^2</span>", "<span>x^2</span>",
    ]  # fmt: skip


def test_no_cell_of_a_table_is_lost():
    assert shown("|a|b|\n|-|-|\n|1|2|3|\n|4|\n|`5|6`|7`|") == [
        "<div><table><thead><tr><th>a</th><th>b</th></tr></thead>"
        "<tbody><tr><td>1</td><td>2 | 3</td></tr><tr><td>4</td></tr>"
        "<tr><td><code>5|6</code></td><td>7`</td></tr></tbody></table></div>"
    ]


def test_an_answer_is_told_once_however_it_grows():
    text = "One **two. Three** four. Five `a > b`. Six\n\n- seven * 8\n- nine\n\n```\nten\n```\n"
    whole, grown = (run("speak.mjs", {"text": text, "step": step}) for step in (1000, 1))
    assert "".join(grown.replace("**", "").split()) == "".join(whole.split()), "but for a mark that nothing closed yet"
    assert "Three four." in whole
