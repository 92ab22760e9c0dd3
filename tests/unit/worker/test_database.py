from pathlib import Path

import asyncpg
import pytest

from notification.errors import SettingsError
from notification.settings import Settings
from worker import database


def test_the_dsn_of_a_role_is_the_owners_with_its_login(tmp_path: Path) -> None:
    (tmp_path / "postgres_inbox.password").write_text("p@ss/w:rd\n")
    settings = Settings(
        postgres="postgresql://owner:x@db.example:6432/herald?sslmode=require", secrets_dir=str(tmp_path)
    )
    login = "postgresql://herald_inbox:p%40ss%2Fw%3Ard@db.example:6432"
    assert database.role_dsn(settings, "inbox") == f"{login}/herald?sslmode=require"
    assert database.role_dsn(settings, "inbox", keys=True) == f"{login}/herald_keys?sslmode=require"
    assert database.keys_dsn(settings) == "postgresql://owner:x@db.example:6432/herald_keys?sslmode=require"


def test_a_dsn_without_login_gets_one() -> None:
    assert database.replace_dsn("postgresql://h:1/a", user="u", password="p") == "postgresql://u:p@h:1/a"
    assert database.replace_dsn("postgresql://u@h:1/a", database="b c") == "postgresql://u@h:1/b%20c"


def test_a_dsn_must_name_a_database() -> None:
    with pytest.raises(SettingsError, match="must name a database"):
        database.database_name("postgresql://u@h:1/")


def test_a_missing_password_names_its_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"postgres_inbox\.password"):
        database.role_dsn(Settings(secrets_dir=str(tmp_path)), "inbox")


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (ConnectionRefusedError(), True),
        (TimeoutError(), True),
        (asyncpg.ConnectionDoesNotExistError("x"), True),
        (asyncpg.CannotConnectNowError("x"), True),
        (asyncpg.AdminShutdownError("x"), True),
        (asyncpg.TooManyConnectionsError("x"), True),
        (asyncpg.DiskFullError("x"), True),
        (asyncpg.DeadlockDetectedError("x"), True),
        (asyncpg.DataError("x"), False),
        (asyncpg.UniqueViolationError("x"), False),
        (asyncpg.UndefinedTableError("x"), False),
        (KeyError("x"), False),
    ],
)
def test_which_errors_mean_that_the_server_is_away(error: Exception, away: bool) -> None:
    assert database.is_away(error) is away
