"""Lists what an assistant may do in the shop: tools of an MCP server, which hold no policy call either."""

from __future__ import annotations

from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

#: What calling a tool is.
ACTIONS = {"order_status": "tool.inspect", "draft_reply": "tool.generate", "change_price": "tool.modify"}


def create_tools(sessions: async_sessionmaker[AsyncSession], order: Any) -> MCPServer:
    """Make the server; ``order`` is the mapped class of orders."""
    server = MCPServer("shop")

    @server.tool()
    async def order_status(number: int) -> str:
        """Whether an order is paid."""
        async with sessions() as session:
            row = await session.get(order, number)
        if row is None:
            raise ToolError("there is no such order")
        return "paid" if row.charge else "not paid"

    @server.tool()
    async def draft_reply(number: int) -> str:
        """A letter about an order, for a person to send."""
        return f"Dear customer, about your order {number}: it is on its way."

    @server.tool()
    async def change_price(number: int, cents: int) -> str:
        """Another price for an order."""
        async with sessions() as session, session.begin():
            row = await session.get(order, number)
            if row is None:
                raise ToolError("there is no such order")
            row.price = cents
        return "changed"

    return server
