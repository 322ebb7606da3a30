"""Log-in, and the handlers that need one."""

import asyncio
import hmac

from pydantic import Field

from handlers import ApiHandler, Body, Problem, operation
from tests.examples.library.db import members


class MemberHandler(ApiHandler):
    """Its requests are of a member, who is `current_user`."""

    async def prepare(self) -> None:
        await super().prepare()
        token = self.get_cookie("member", "")
        self.current_user = await self.run(members.find_logged_in, self.session, token=token)
        if self.current_user is None:
            raise Problem(401, "log in first: POST /login")


class Credentials(Body):
    name: str = Field(max_length=64)
    password: str = Field(max_length=200)


class LoginHandler(ApiHandler):
    @operation(status=204)
    async def post(self, given: Credentials) -> None:
        member = await self.run(members.find_member, self.session, name=given.name)
        digest = await asyncio.to_thread(
            members.password_hash, given.password, member.salt if member else b""
        )
        if member is None or not hmac.compare_digest(digest, member.password):
            raise Problem(401, "no member has this name and password")
        token = await self.run(members.log_in, self.session, member_id=member.id)
        is_https = self.request.protocol == "https"
        self.set_cookie("member", token, httponly=True, samesite="Strict", secure=is_https)
        self.set_status(204)
