"""Whose face was learned and what that person agreed to: looked at before each use, handed on to what goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from datamodules.types import BadInputError
from services.model_names import adaptation_of


@dataclass(frozen=True)
class Subject:
    """Whose face it is, and what that person agreed to."""

    name: str = ""
    """What the registry calls the person: small letters, digits, dashes; empty for what is not registered."""
    consent: str = ""
    """Where the consent is kept, e.g. a document's number."""
    expires: str = ""
    """Day until which it holds, ``YYYY-MM-DD``; after it the adaptation is refused. Empty: for ever."""

    def __post_init__(self) -> None:
        if self.name:
            adaptation_of(self.name)
        if self.expires:
            try:
                date.fromisoformat(self.expires)
            except ValueError:
                raise BadInputError(f"expires must be a day like 2027-12-31, got {self.expires[:40]!r}") from None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Subject:
        """As the config of an adaptation says; nobody where it does not."""
        said = config.get("subject")
        known = said if isinstance(said, dict) else {}
        return cls(**{key: str(known.get(key, "")) for key in ("name", "consent", "expires")})


def require_consent(subject: Subject, what: str) -> None:
    """Raise ``BadInputError`` where the consent has run out; ``what`` names the adaptation in the message."""
    if subject.expires and date.fromisoformat(subject.expires) < datetime.now(UTC).date():
        raise BadInputError(f"the consent for {what} ran out on {subject.expires}; ask for it anew, or delete it")


def handed_on(earlier: Subject, asked: Subject) -> Subject:
    """Whose it is that goes on from an earlier adaptation: as was ``asked``, the rest as it was there.

    Raises ``BadInputError`` where the consent has run out, for another person, and for a consent that is to hold
    longer than it did without a new one being named.
    """
    require_consent(earlier, earlier.name or "the adaptation that is gone on from")
    if earlier.name and asked.name and asked.name != earlier.name:
        raise BadInputError(
            f"the adaptation that is gone on from is of {earlier.name}, not of {asked.name}; "
            "leave --from out for another person"
        )
    longer = asked.expires and earlier.expires and _day(asked) > _day(earlier)
    if longer and asked.consent in ("", earlier.consent):
        raise BadInputError(
            f"the consent holds until {earlier.expires}; until {asked.expires} a new one is needed: "
            "name it with --consent"
        )
    return Subject(asked.name or earlier.name, asked.consent or earlier.consent, asked.expires or earlier.expires)


def _day(subject: Subject) -> date:
    return date.fromisoformat(subject.expires)
