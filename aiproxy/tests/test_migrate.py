import pytest
from django.core.management import CommandError, call_command


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "1e9"])
def test_it_waits_for_a_lock_for_a_time_that_the_database_takes(seconds):
    with pytest.raises(CommandError, match="--lock-timeout: more than 0 seconds"):
        call_command("migrate", f"--lock-timeout={seconds}")
