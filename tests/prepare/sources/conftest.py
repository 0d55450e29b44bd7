"""What an adapter makes of its example row, changed; and why it, or the checks that follow, reject it."""

import pytest

from cinema_verl.data.canonical import Rejected
from cinema_verl.prepare.convert import check_draft
from cinema_verl.prepare.sources import adapter


def convert(name, **changes):
    """The adapter's example with fields changed; ... takes one away."""
    row = {**adapter(name).example, **changes}
    return adapter(name).convert({key: value for key, value in row.items() if value is not ...})


def reason_of(name, **changes):
    with pytest.raises(Rejected) as rejected:
        check_draft(convert(name, **changes))
    return rejected.value.reason
