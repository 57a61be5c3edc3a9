"""Who a token belongs to, and whether it may write where it is asked to."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sso_data.core.errors import HubError

_WRITING_ROLES = {"write", "admin", "contributor"}
_WRITING = {"repo.write", "repo.content.write"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What whoami says of a token: its user, the user's organizations, the token's own rights."""

    name: str
    organizations: Mapping[str, str]
    token: Mapping[str, Any]

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> "Account":
        """The account of whoami's answer."""
        return cls(
            name=answer["name"],
            organizations={
                org["name"]: org.get("roleInOrg") or "write" for org in answer.get("orgs") or []
            },
            token=(answer.get("auth") or {}).get("accessToken") or {},
        )

    def check_write(self, repo: str, settings: str) -> None:
        """HubError where this token cannot write to `repo`; `settings`: the page of tokens."""
        namespace = repo.partition("/")[0]
        remedy = f"make one with write access at {settings}, then `hf auth login`"
        role = self.token.get("role")
        if role == "read":
            raise HubError(f"{repo}: the token of {self.name} may only read; {remedy}")
        if role == "fineGrained":
            if not self._is_granted(repo, namespace):
                raise HubError(
                    f"{repo}: the fine-grained token of {self.name} has no write right for "
                    f"{namespace}; {remedy}"
                )
            return
        if namespace == self.name:
            return
        if namespace not in self.organizations:
            known = ", ".join([self.name, *self.organizations])
            raise HubError(
                f"{repo}: {self.name} is no member of {namespace}; the token may write to {known}"
            )
        role = self.organizations[namespace]
        if role not in _WRITING_ROLES:
            raise HubError(
                f"{repo}: {self.name} has the role {role} in {namespace}, which may not write; "
                "ask its administrators"
            )

    def _is_granted(self, repo: str, namespace: str) -> bool:
        """Whether one of the token's scopes is the namespace or the repository, with writing."""
        found = self.token.get("fineGrained")
        if not isinstance(found, Mapping):
            return True  # unknown to us; the Hub will say
        scopes = found.get("scoped") or []
        return any(
            scope.get("entity", {}).get("name") in (repo, namespace)
            and _WRITING & set(scope.get("permissions") or [])
            for scope in scopes
        ) or bool(_WRITING & set(found.get("global") or []))
