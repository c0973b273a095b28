"""Reports of a selection and of a comparison, and a browser to look at them."""

import shutil
import tempfile
from pathlib import Path

import pytest
from report_samples import make_comparison, make_selection

from icl_plugins.report import comparison_report, selection_report


@pytest.fixture(scope="session")
def chosen():
    """A selection of 16 of 200, and its features."""
    return make_selection(200, 16)


@pytest.fixture(scope="session")
def comparison():
    return make_comparison()


@pytest.fixture(scope="session")
def pages(chosen, comparison, tmp_path_factory):
    """The pages as files: name -> path."""
    selection, features = chosen
    folder = tmp_path_factory.mktemp("pages")
    reports = {
        "selection": selection_report(selection, features=features, tokens=list(range(10, 26))),
        "comparison": comparison_report(comparison),
    }
    for name, report in reports.items():
        report.save(folder / f"{name}.html")
    return {name: folder / f"{name}.html" for name in reports}


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium that records what it logs and what it asks the network for."""
    programs = [shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")]
    if not all(programs):
        pytest.skip("chromium and chromedriver are not installed")
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = programs[0]
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for argument in (
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            f"--user-data-dir={profile}",
        ):
            options.add_argument(argument)
        driver = Chrome(options=options, service=Service(programs[1]))
        try:
            driver.get("about:blank")  # away from the browser's own first page
            yield driver
        finally:
            driver.quit()


@pytest.fixture
def visit(chromium, pages):
    """Open a page at a width, in light or dark -> the driver, its logs emptied before."""

    def call(name, width=1280, scheme="light"):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        for log in ("browser", "performance"):
            chromium.get_log(log)
        chromium.get(Path(pages[name]).as_uri())
        return chromium

    return call
