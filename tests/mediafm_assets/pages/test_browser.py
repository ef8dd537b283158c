"""The pages in a real browser, as people use them: by mouse, keyboard and screen reader, on a desk and on a phone."""

from pathlib import Path
from typing import Any

import pytest

from tests.mediafm_assets.conftest import wait_for
from tests.mediafm_assets.pages.conftest import Site

DESK, PHONE = 1280, 390


@pytest.fixture
def browser(chromium: Any) -> Any:
    """At the width of a desk, with nothing in its log."""
    resize(chromium, DESK)
    chromium.get_log("browser")
    return chromium


def resize(browser: Any, width: int) -> None:
    metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def find(browser: Any, css: str) -> Any:
    return browser.find_element("css selector", css)


def complaints(browser: Any) -> list[str]:
    """What the browser refused or could not load."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def accessible(browser: Any) -> list[dict[str, Any]]:
    """What a screen reader is told; nothing as long as the browser is still finding out."""
    tree = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    nodes = [node for node in tree if not node.get("ignored")]
    return nodes if any(node["role"]["value"] == "main" for node in nodes) else []


def paths(site: Site) -> list[str]:
    titles = [f"/titles/{title}" for title in (*site.ids[:2], "bare")]
    return ["/", "/search?q=the+sea+and+the+fire", f"/search?like={site.ids[0]}:1", *titles, "/encoders",
            f"/encoders?like={site.ids[0]}:1", "/api", "/nowhere"]  # fmt: skip


def test_a_search_leads_to_a_film_that_plays_from_there(browser: Any, site: Site, tmp_path: Path) -> None:
    browser.get(site.url)
    find(browser, "#q").send_keys("the sea and the fire")
    find(browser, ".find button").click()
    wait_for(lambda: "/search?q=" in browser.current_url)
    hit = find(browser, "ol.grid .card .cover")
    still = find(browser, "ol.grid .card img")
    wait_for(lambda: browser.execute_script("return arguments[0].naturalWidth", still) > 0)
    asked = float(hit.get_attribute("href").split("t=")[1].split("#")[0])
    browser.save_screenshot(str(tmp_path / "results.png"))
    hit.click()
    wait_for(lambda: "/titles/" in browser.current_url)

    def film(said: str) -> Any:
        return browser.execute_script(f"const film = document.getElementById('film'); return {said}")

    wait_for(lambda: film("film.readyState >= 1"))
    assert film("film.duration") > 1
    wait_for(lambda: abs(film("film.currentTime") - asked) < 0.3)
    shots = browser.find_elements("css selector", "a.shot")
    there = float(shots[2].get_attribute("data-t"))
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", shots[2])
    shots[2].click()
    wait_for(lambda: film(f"!film.paused && film.currentTime > {there + 0.1}"))
    assert film("film.currentTime") < there + 10
    assert float(find(browser, "#playhead").get_attribute("x1").rstrip("%")) > 0
    assert browser.find_elements("css selector", "a.shot[aria-current]")
    assert film("film.videoWidth") > 0
    assert not complaints(browser)


def test_a_point_on_the_timeline_plays_the_film_from_there(browser: Any, site: Site) -> None:
    browser.get(f"{site.url}/titles/{site.ids[0]}")
    mark = find(browser, ".timeline a.break")
    there = float(mark.get_attribute("data-t"))
    find(browser, ".timeline a.break path").click()
    wait_for(lambda: browser.execute_script("return document.getElementById('film').currentTime") >= there)
    assert browser.current_url.endswith(site.ids[0])


def test_a_film_that_cannot_be_played_is_said_to_be_so(browser: Any, site: Site) -> None:
    browser.get(f"{site.url}/titles/bare")
    wait_for(lambda: find(browser, "#unplayable").is_displayed())
    assert not find(browser, "#film").is_displayed()


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_no_page_scrolls_sideways_and_every_picture_is_there(
    browser: Any, site: Site, width: int, tmp_path: Path
) -> None:
    resize(browser, width)
    for number, path in enumerate(paths(site)):
        browser.get(site.url + path)
        wide = browser.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width, path
        browser.execute_script("for (const image of document.images) image.loading = 'eager'")
        wait_for(lambda: browser.execute_script("return [...document.images].every((image) => image.complete)"))
        browser.save_screenshot(str(tmp_path / f"{number}.png"))
        missing = browser.execute_script(
            "return [...document.images].filter((image) => !image.naturalWidth).map((image) => image.src)"
        )
        assert not missing, path


def test_pages_break_none_of_their_own_rules(browser: Any, site: Site) -> None:
    for path in paths(site)[:-1]:
        browser.get(site.url + path)
        # Of the title without shots, the film has gone, too.
        assert not [said for said in complaints(browser) if "/titles/bare/film" not in said], path
    assert browser.execute_script("return typeof window.pwned") == "undefined"


def test_it_can_be_used_by_keyboard_alone(browser: Any, site: Site) -> None:
    from selenium.webdriver import ActionChains, Keys

    def press(*keys: str) -> None:
        for key in keys:
            ActionChains(browser).send_keys(key).perform()

    browser.get(site.url)
    press(Keys.TAB)
    assert browser.switch_to.active_element.text == "To the content"
    press(Keys.TAB, Keys.TAB)
    assert browser.switch_to.active_element.get_attribute("id") == "q"
    press("fire", Keys.ENTER)
    wait_for(lambda: "/search?q=fire" in browser.current_url)
    press(Keys.TAB, Keys.ENTER)
    wait_for(lambda: browser.current_url.endswith("#main"))
    press(Keys.TAB)
    hit = browser.switch_to.active_element
    assert "cover" in hit.get_attribute("class")
    ring = browser.execute_script("return getComputedStyle(arguments[0]).outlineStyle", hit)
    assert ring == "solid"
    press(Keys.ENTER)
    wait_for(lambda: "/titles/" in browser.current_url)
    browser.execute_script("document.querySelector('a.shot').focus()")
    press(Keys.TAB, Keys.TAB)
    there = float(browser.switch_to.active_element.get_attribute("data-t"))
    press(Keys.ENTER)
    wait_for(lambda: browser.execute_script("return document.getElementById('film').currentTime") >= there)


def test_a_screen_reader_finds_landmarks_and_a_name_for_everything(browser: Any, site: Site) -> None:
    for path in paths(site):
        browser.get(site.url + path)
        nodes = wait_for(lambda: accessible(browser))
        roles = [node["role"]["value"] for node in nodes]
        for landmark in ("banner", "main", "navigation", "search"):
            assert landmark in roles, (path, landmark)
        levels = browser.execute_script("return [...document.querySelectorAll('h1')].length")
        assert levels == 1, path
        for node in nodes:
            if node["role"]["value"] in ("link", "button", "textbox", "searchbox", "checkbox", "image", "region"):
                assert node.get("name", {}).get("value", "").strip(), (path, node)
        assert not browser.execute_script("return document.querySelectorAll('img:not([alt])').length"), path


def test_text_stands_out_from_its_ground_by_day_and_by_night(browser: Any, site: Site) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1."""
    measure = """
    const luminance = (colour) => {
      const channels = colour.match(/[\\d.]+/g).slice(0, 3).map((c) => c / 255);
      const linear = channels.map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
      return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
    };
    const ground = (element) => {
      for (let at = element; at; at = at.parentElement) {
        const colour = getComputedStyle(at).backgroundColor;
        if (/^rgb\\(/.test(colour)) return colour;
      }
      return "rgb(255, 255, 255)";
    };
    return [...document.querySelectorAll("main h1, main h2, .quiet, .lead, .words, .chip, a.like, button, mark, td")]
      .filter((element) => element.textContent.trim() && element.offsetParent)
      .map((element) => {
        const [a, b] = [luminance(getComputedStyle(element).color), luminance(ground(element))].sort((x, y) => y - x);
        return [(a + 0.05) / (b + 0.05), element.outerHTML.slice(0, 80)];
      });
    """
    for scheme in ("light", "dark"):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        for path in paths(site):
            browser.get(site.url + path)
            assert browser.execute_script("return matchMedia('(prefers-color-scheme: dark)').matches") == (
                scheme == "dark"
            )
            faint = [said for said in browser.execute_script(measure) if said[0] < 4.5]
            assert not faint, (scheme, path)
