"""What a validation says while it runs."""

from cinema_verl.training.progress import EVERY, Progress


def test_it_begins_goes_on_and_ends():
    said, now = [], 0.0
    progress = Progress(25, 6, 4, say=said.append, clock=lambda: now)
    for now in (1.0, EVERY, EVERY + 1):  # noqa: B007  the clock reads it
        progress.look(2)
    progress.batch_ended(4)
    now = 2 * EVERY + 1
    progress.look(1)
    progress.end()
    name = "cinema-verl: validation at step 25"
    assert said == [
        f"{name}: 6 questions, 4 rollouts each",
        f"{name}: 2 of 6 questions after 30 s",
        f"{name}: 5 of 6 questions after 61 s",
        f"{name}: ended after 61 s",
    ]
