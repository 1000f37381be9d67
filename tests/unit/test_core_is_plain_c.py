def test_no_c_source_includes_python(repository):
    sources = sorted(repository.glob("csrc/**/*.[ch]"))
    assert sources
    assert [path.name for path in sources if "Python.h" in path.read_text()] == []
