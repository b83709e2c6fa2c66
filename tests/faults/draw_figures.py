"""Write the figures of a run of the tests of faults into docs/reliability.md; `make reliability` calls it."""

import importlib.util
import json
import re
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    """Replace what stands between the marks."""
    spec = importlib.util.spec_from_file_location("page", HERE / "test_reliability_page.py")
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    figures = json.loads(page.STORED.read_text())
    table = (
        f"<!-- figures -->\n| tried in the stored run | |\n| --- | --- |\n{page.drawn(figures)}\n<!-- end -->"
    )
    path = page.ROOT / "docs" / "reliability.md"
    text = re.sub("<!-- figures -->\n.*?<!-- end -->", lambda _: table, page.PAGE, flags=re.DOTALL)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
