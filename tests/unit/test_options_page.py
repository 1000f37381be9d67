from cirrus_fast.options import options_markdown, table


def test_options_page_is_what_the_table_says(repository):
    page = (repository / "docs" / "options.md").read_text()
    assert page == options_markdown(), "run: python -m cirrus_fast.options > docs/options.md"


def test_every_option_is_on_the_page():
    page = options_markdown()
    assert all(f"| `{row.name}` |" in page for row in table())
