"""The page of ``sparsebench report`` in a real browser: Chromium without a window, through its own driver."""

from __future__ import annotations

import shutil
import time

import pytest

from sparsebench.cli import main
from sparsebench.files import write_csv
from tests.support.tables import put, reported

pytestmark = [pytest.mark.browser, pytest.mark.slow]

METHODS = ("dpf", "gmp", "rigl", "snip")


def rows():
    """Dense and four methods at two sparsities with three seeds; of two seeds of gmp, no dense run is there."""
    found = [reported("dense", 0.0, seed, 90.0 + seed) for seed in range(3)]
    for i, method in enumerate(METHODS):
        found += [
            reported(method, sparsity, seed, 80.0 + i + sparsity + seed / 10)
            for sparsity in (0.9, 0.95)
            for seed in (0, 2, 10)
        ]
    found += [reported("dpf", 0.99, 0, "", status="diverged")]
    found += [
        reported(
            "<img src=x onerror=document.title='run'>",
            0.9,
            1,
            9.5,
            run_id="<script>document.title='run'</script>",
        )
    ]
    return found  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    """Chromium, driven; the tests are skipped where it, its driver or selenium is not installed."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no chromium, or no chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,1000"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    session = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield session
    session.quit()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A report on run folders."""
    results = tmp_path_factory.mktemp("browser") / "a b#c"
    named = [values | {"run_id": f"run{i}"} for i, values in enumerate(rows()[:-1])]
    put(results, named)
    (results / "odd").mkdir()
    write_csv(results / "odd" / "summary.csv", [*rows()[-1]], [rows()[-1]])
    assert main(["report", str(results)]) == 0
    return results / "report"


@pytest.fixture
def page(browser, folder):
    """(script) -> its value, on the page just opened; the browser must have nothing to complain about."""
    browser.get((folder / "index.html").as_uri())
    yield lambda script: browser.execute_script(script)
    assert browser.get_log("browser") == []


COLUMN = """const at = [...document.querySelectorAll('#table th')].findIndex((th) => th.innerText.startsWith('%s'));
return [...document.querySelectorAll('#table tbody tr')].map((tr) => tr.cells[at].innerText);"""
HEAD = "return [...document.querySelectorAll('#table th')].find((th) => th.innerText.startsWith('%s'))"


def column(page, name):
    return page(COLUMN % name)


def choose(page, name, text):
    page(
        f"const s = document.querySelector('select[data-column={name}]');"
        f"s.value = [...s.options].find((o) => o.text === '{text}').value; s.dispatchEvent(new Event('change'));"
    )


def test_it_opens_with_every_figure_drawn_and_runs_no_text_of_a_result(browser, page):
    assert browser.title.endswith("sparse-training results")
    sizes = page("return [...document.images].map((i) => { i.loading = 'eager'; return i; }).length")
    assert sizes >= 3
    page("return Promise.all([...document.images].map((i) => i.decode()))")
    assert all(width > 300 for width in page("return [...document.images].map((i) => i.naturalWidth)"))
    assert page("return document.querySelectorAll('#table img, #table script').length") == 0
    assert "<script>document.title='run'</script>" in column(page, "run")


def test_it_asks_nothing_of_the_network(page):
    assert (
        page("return performance.getEntriesByType('resource').filter((e) => !e.name.startsWith('data:'))")
        == []
    )


def test_headers_sort_by_number_and_by_text_with_the_empty_last(page):
    head = page(HEAD % "top1")
    head.find_element("tag name", "button").click()
    values = [float(text) for text in column(page, "top1") if text]
    assert values == sorted(values) and column(page, "top1")[-1] == "" and len(values) == 28
    assert head.get_attribute("aria-sort") == "ascending"
    head.find_element("tag name", "button").click()
    assert [float(text) for text in column(page, "top1") if text] == values[::-1]
    assert column(page, "top1")[-1] == "" and head.get_attribute("aria-sort") == "descending"
    page(HEAD % "seed").find_element("tag name", "button").send_keys("\n")  # by keyboard
    assert column(page, "seed")[-1] == "10" and head.get_attribute("aria-sort") == "none"
    page(HEAD % "method").find_element("tag name", "button").click()
    assert column(page, "method")[-1] == "snip"


def test_choices_and_words_filter_together_and_reset_shows_all(browser, page):
    choose(page, "method", "dpf")
    assert set(column(page, "method")) == {"dpf"} and len(column(page, "method")) == 7
    choose(page, "state", "diverged")
    assert column(page, "target")[:1] == ["0.99"] and len(column(page, "run")) == 1
    assert page("return document.getElementById('count').textContent") == "1 of 29 runs"
    assert page("return document.querySelector('#table tbody tr').className") == "out"
    assert column(page, "to dense") == [""]  # its dense run is there
    browser.find_element("css selector", "button[type=reset]").click()
    browser.find_element("id", "search").send_keys("GMP sparsity=0.95")
    assert set(column(page, "method")) == {"gmp"} and len(column(page, "method")) == 3
    browser.find_element("id", "search").send_keys(" nothing-like-it")
    assert column(page, "run") == []


def test_a_row_links_to_its_folder_and_copies_its_commands(browser, page, folder):
    browser.find_element("id", "search").send_keys("prune=gmp sparsity=0.9 seed=10")
    links = page("return [...document.querySelectorAll('#table a')].map((a) => a.href)")
    assert links[0].startswith((folder.parent / "run-").as_uri())
    search = browser.find_element("id", "search")
    for button, expected in ((-1, "prune=gmp sparsity=0.9 seed=10"), (0, "prune=dense seed=10")):
        copy = browser.find_elements("css selector", "#table tbody tr:first-child button.copy")[button]
        copy.click()
        for _ in range(50):
            if copy.text == "copied":
                break
            time.sleep(0.1)
        assert copy.text == "copied"
        page("const s = document.getElementById('search'); s.value = ''; s.focus()")  # as it was: no event
        search.send_keys("\ue009v\ue000")  # control and v
        assert search.get_property("value") == f"sparsebench train {expected}"
        page("const s = document.getElementById('search'); s.value = 'prune=gmp sparsity=0.9 seed=10';"
             "s.dispatchEvent(new Event('input'))")  # fmt: skip


def test_without_scripts_the_means_are_there(browser, folder):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get((folder / "index.html").as_uri())
        text = browser.find_element("css selector", ".means").text
        assert "needs JavaScript" in browser.find_element("tag name", "noscript").text
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert "91.00" in text and "rigl" in text


def test_five_thousand_rows_are_paged_sorted_and_filtered(browser, tmp_path):
    many = [
        reported(METHODS[n % 4], 0.9, n // 4, 80 + n / 1000, run_id=f"r{n}", config_hash=METHODS[n % 4])
        for n in range(5000)
    ]
    write_csv(tmp_path / "many.csv", [*many[0]], many)
    assert main(["report", str(tmp_path / "many.csv")]) == 0
    assert (tmp_path / "many-report" / "index.html").stat().st_size < 4e6
    browser.get((tmp_path / "many-report" / "index.html").as_uri())
    page = browser.execute_script
    assert page("return document.querySelectorAll('#table tbody tr').length") == 50
    for _ in range(2):
        page(HEAD % "top1").find_element("tag name", "button").click()
    assert column(page, "run")[:2] == ["r4999", "r4998"]
    choose(page, "method", "rigl")
    assert page("return document.getElementById('count').textContent") == "1250 of 5000 runs"
    browser.find_element("id", "next").click()
    assert column(page, "run")[0] == "r4798"  # the 51st: every fourth below r4998
    assert page("return document.getElementById('page').textContent") == "page 2 of 25"
