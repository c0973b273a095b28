"""Progress reaches the listener of its own context, and nobody else."""

from threading import Thread

from icl_plugins.progress import progress_to, tell_progress


def test_the_listener_hears_what_is_told_inside_its_block_only():
    heard = []
    tell_progress("before", 1, 2)
    with progress_to(lambda *told: heard.append(told)):
        tell_progress("stage", 1, 2)
        tell_progress("stage", 2, 2)
    tell_progress("after", 1, 2)
    assert heard == [("stage", 1, 2), ("stage", 2, 2)]


def test_an_inner_listener_stands_in_for_the_outer_one_even_after_an_error():
    outer, inner = [], []
    with progress_to(lambda *told: outer.append(told)):
        try:
            with progress_to(lambda *told: inner.append(told)):
                tell_progress("inner", 1, 1)
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            tell_progress("outer", 1, 1)
    assert (outer, inner) == ([("outer", 1, 1)], [("inner", 1, 1)])


def test_another_thread_does_not_speak_to_this_listener():
    heard = []
    with progress_to(lambda *told: heard.append(told)):
        thread = Thread(target=tell_progress, args=("elsewhere", 1, 1))
        thread.start()
        thread.join()
    assert heard == []
