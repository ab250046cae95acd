"""The page in a real browser: two answers side by side, run, compared, voted on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from fake_engine import ANSWERS, FakeEngine, make_service, running

from browser import console, is_wider_than_window, open_page
from veritune.generate.engine import BASE
from veritune.serve.service import Service
from veritune.votes import read_votes

pytestmark = [pytest.mark.slow, pytest.mark.browser]
HOSTILE = "<img src=x onerror=document.title='owned'>print('hi')\n"


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine({**ANSWERS, "hostile": HOSTILE}, pause=0.002)


@pytest.fixture(scope="module")
def service(engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Service:
    return make_service(tmp_path_factory.mktemp("served"), engine)


@pytest.fixture(scope="module")
def url(service: Service) -> Iterator[str]:
    with running(service) as (found, _):
        yield found


class Page:
    """What a person does on the page."""

    def __init__(self, browser: Any, url: str, **settings: Any) -> None:
        self.browser = browser
        open_page(browser, url, **settings)
        self.wait(lambda: self.find("#run option"))

    def find(self, css: str) -> Any:
        return self.browser.find_element("css selector", css)

    def text(self, css: str) -> str:
        return str(self.browser.execute_script(
            "return document.querySelector(arguments[0]).textContent", css
        ))  # fmt: skip

    def wait(self, condition: Any, seconds: float = 10) -> None:
        from selenium.common.exceptions import WebDriverException
        from selenium.webdriver.support.ui import WebDriverWait

        waiting = WebDriverWait(self.browser, seconds, ignored_exceptions=[WebDriverException])
        waiting.until(lambda _: condition())

    def ask(self, question: str, run: str = "tiny", *, blind: bool = False) -> None:
        from selenium.webdriver.common.keys import Keys
        from selenium.webdriver.support.ui import Select

        Select(self.find("#run")).select_by_visible_text(run)
        if self.find("#blind").is_selected() != blind:
            self.find("#blind").click()
        field = self.find("#question")
        field.clear()
        field.send_keys(question, Keys.CONTROL + Keys.ENTER)
        done = "#vote" if blind else "#nearest"
        self.wait(lambda: self.find(done).is_displayed())

    def side(self, side: str, css: str) -> str:
        return self.text(f"[data-side={side}] {css}")


@pytest.fixture
def page(browser: Any, url: str) -> Page:
    return Page(browser, url)


def test_asking_once_shows_both_answers_and_where_they_differ(page: Page) -> None:
    page.ask("Sort a list of numbers")
    assert page.side("left", ".text") == ANSWERS[BASE]
    assert page.side("right", ".text") == ANSWERS["tiny"]
    assert (page.side("left", ".name"), page.side("right", ".name")) == (BASE, "tiny")
    assert page.side("left", ".badge") == "✗ does not parse"
    assert page.side("right", ".badge") == "✓ parses"
    assert "does not parse (SyntaxError" in page.text("#status")
    marks = page.browser.execute_script(
        "return Array.from(document.querySelectorAll('[data-side=right] mark'), m => m.textContent)"
    )
    assert any("sort" in text for text in marks)
    assert not any("numbers = [3, 1, 2]" in text for text in marks)
    assert "This very question is in the training data" in page.text("#nearest-said")
    assert page.text("#nearest-answer") == "print(sorted([2, 1]))\n"
    assert console(page.browser) == []


def test_text_of_models_and_data_stays_text(page: Page) -> None:
    page.ask("Open <b>a</b> fille", "hostile")
    assert page.side("right", ".text") == HOSTILE
    assert page.text("#nearest-question") == "Open <b>a</b> file"
    assert page.browser.execute_script(
        "return document.images.length + document.querySelectorAll('main b').length"
    ) == 0  # fmt: skip
    assert "owned" not in page.browser.title
    assert console(page.browser) == []


def test_the_page_never_writes_markup() -> None:
    for file in (resources.files("veritune.serve") / "static").iterdir():
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
        assert not re.search(r"(src|href)=.https?:|url\(http", text)
        assert not re.search(r"\son[a-z]+=\"|style=\"", text)


def test_an_answer_is_run_with_what_it_reads(page: Page, sandbox: None) -> None:
    page.ask("Read something", "other")
    page.wait(lambda: page.find("[data-side=right] .run").is_displayed(), 30)
    page.find("[data-side=right] .run").click()
    page.wait(lambda: "It asks for input" in page.side("right", ".outcome"))
    field = page.find("[data-side=right] .stdin textarea")
    page.wait(field.is_displayed)
    field.send_keys("<i>hello</i>")
    page.find("[data-side=right] .run").click()
    page.wait(lambda: "It ran to its end" in page.side("right", ".outcome"))
    assert page.side("right", ".printed") == "<i>hello</i>\n"
    page.find("[data-side=left] .run").click()
    page.wait(lambda: "SyntaxError" in page.side("left", ".outcome"))


def test_a_blind_vote_hides_names_then_tells_and_is_stored(page: Page, service: Service) -> None:
    from selenium.webdriver.common.keys import Keys

    sides = set()
    for turn in range(12):
        page.ask(f"Question {turn}", blind=True)
        names = page.side("left", ".name"), page.side("right", ".name")
        assert names == ("Answer A", "Answer B")
        assert not page.find("#nearest").is_displayed()
        assert "tiny" not in page.text("#answers")
        adapted = "left" if page.side("left", ".text") == ANSWERS["tiny"] else "right"
        sides.add(adapted)
        page.find("body").send_keys("1" if adapted == "left" else "3")
        page.wait(lambda: page.find("#nearest").is_displayed())
        assert page.side(adapted, ".name") == "tiny"
        assert "Your vote: tiny" in page.text("#tally")
        if len(sides) == 2 and turn > 2:
            break
    assert sides == {"left", "right"}
    votes = read_votes(service.catalog.run_of("tiny").run.votes)
    assert {vote.choice for vote in votes} == {"adapted"} and len(votes) == turn + 1
    assert votes[0].adapted == ANSWERS["tiny"] and votes[0].base == ANSWERS[BASE]
    assert f"adapted {turn + 1}, base 0" in page.text("#tally")
    page.find("body").send_keys(Keys.ESCAPE)


def test_stopping_keeps_what_is_there(page: Page, engine: FakeEngine, service: Service) -> None:
    from selenium.webdriver.common.keys import Keys

    engine.pause = 0.1
    try:
        page.find("#question").send_keys("Slow", Keys.CONTROL + Keys.ENTER)
        page.wait(lambda: len(page.side("right", ".text")) > 3)
        page.find("#question").send_keys(Keys.ESCAPE)
        page.wait(lambda: page.text("#status") == "Stopped.")
        page.wait(lambda: service.worker.n_inside == 0)
        assert ANSWERS["tiny"].startswith(page.side("right", ".text"))
    finally:
        engine.pause = 0.002


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_axe_finds_nothing_serious(
    browser: Any,
    url: str,
    width: int,
    theme: str,
) -> None:
    from axe_core_python.selenium import Axe

    page = Page(browser, url, width=width, theme=theme)
    assert not is_wider_than_window(browser)
    assert _serious(Axe().run(browser)) == []
    page.ask("Sort a list of numbers", blind=True)
    assert _serious(Axe().run(browser)) == []
    page.find("[data-better=tie]").click()
    page.wait(lambda: page.find("#nearest").is_displayed())
    assert _serious(Axe().run(browser)) == []
    assert not is_wider_than_window(browser)


def _serious(found: dict[str, Any]) -> list[str]:
    return [
        f"{row['id']}: {row['nodes'][0]['html']}"
        for row in found["violations"]
        if row["impact"] in ("serious", "critical")
    ]


def test_a_key_is_asked_for_where_one_is_needed(
    browser: Any,
    tmp_path: Path,
) -> None:
    from selenium.webdriver.common.keys import Keys

    service = make_service(tmp_path, api_key="open-sesame")
    with running(service) as (url, _):
        open_page(browser, url)
        page = Page.__new__(Page)
        page.browser = browser
        page.wait(lambda: page.find("#key-form").is_displayed())
        assert "API key is missing" in page.text("#fault")
        page.find("#key").send_keys("open-sesame", Keys.ENTER)
        page.wait(lambda: page.find("#run option"))
        assert not page.find("#key-form").is_displayed()
        page.ask("Sort a list of numbers")
        assert page.side("right", ".text") == ANSWERS["tiny"]


def test_marked_parts_join_to_the_texts_and_common_words_stay_unmarked(page: Page) -> None:
    found = page.browser.execute_async_script(
        """const done = arguments[arguments.length - 1];
        import('/static/diff.js').then(({ differences }) => {
            const words = ['a', 'b', 'c', ' ', '\\n', '(', 'é', '🎈', 'ab'];
            let seed = 7;
            const next = (n) => {
                seed = (seed * 1103515245 + 12345) % 2147483648;
                return seed % n;
            };
            const faults = [];
            for (let turn = 0; turn < 500; turn += 1) {
                const text = () => Array.from({ length: next(30) }, () => words[next(9)]).join('');
                const [left, right] = [text(), text()];
                const [a, b] = differences(left, right);
                const join = (parts) => parts.map(([part]) => part).join('');
                const plain = (parts) => parts.filter(([, differs]) => !differs)
                    .map(([part]) => part).join('').replace(/\\s/g, '');
                if (join(a) !== left || join(b) !== right || plain(a) !== plain(b))
                    faults.push([left, right]);
            }
            const same = differences('x = 1\\ny', 'x = 1\\ny').flat().some(([, d]) => d);
            const one = differences('x = 1 + 2', 'x = 1 - 2')[0].filter(([, d]) => d);
            const far = differences('a '.repeat(3000), 'b '.repeat(3000)).flat().length;
            done([faults.slice(0, 3), same, one, far]);
        });"""
    )
    assert found[:3] == [[], False, [["+", True]]]
    assert found[3] >= 2
