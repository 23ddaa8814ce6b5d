"""The kind python_block."""

from __future__ import annotations

from tests.kitchens import changes, failure, states


def test_the_code_is_called_when_its_turn_comes(site):
    site.recipe("""
        from pathlib import Path

        def copy():
            Path('{here}/b').write_text(Path('{here}/a').read_text())
        file('{here}/a', content='x')
        python_block('copy it', code=copy)
    """)
    site.write("a", "old")

    assert changes(site.converge())[1] == ["call copy"]
    assert site.text("b") == "x"


def test_whoever_is_notified_runs_after_it(site):
    site.recipe("""
        def work():
            pass
        python_block('work', code=work).notifies('run', 'execute[after]', 'immediately')
        execute('after', command='echo ran >> {here}/out', action='nothing')
    """)

    assert changes(site.converge()) == [
        ["call work"],
        ["run `echo ran >> " + str(site.folder) + "/out`"],
    ]
    assert site.text("out") == "ran\n"


def test_code_that_returns_false_changed_nothing_and_notifies_nobody(site):
    site.recipe("""
        python_block('work', code=lambda: False).notifies('run', 'execute[after]')
        execute('after', command='echo ran >> {here}/out', action='nothing')
    """)

    assert states(site.converge()) == ["unchanged"]
    assert not (site.folder / "out").exists()


def test_an_exception_fails_it_and_names_the_line(site):
    place = site.recipe("""
        def work():
            {}['bender']
        python_block('work', code=work)
    """)

    assert f"KeyError: 'bender' ({place}:3)" in failure(site.converge())


def test_a_why_run_does_not_call(site):
    site.recipe("python_block('work', code=lambda: __import__('os').mkdir('{here}/a'))")

    assert states(site.converge(why_run=True)) == ["changed"]
    assert not (site.folder / "a").exists()


def test_a_block_without_code_is_refused_in_the_recipe(site):
    place = site.recipe("python_block('work')")

    assert failure(site.converge()).startswith(f"{place}:2: python_block[work]: code is missing")
