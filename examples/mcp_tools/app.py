"""Runs a workshop of modules: an MCP server whose tools may do what the mode of their environment allows.

No tool holds a policy call: the gate around the server knows which of them inspects, generates or modifies, and the
policy says where that is allowed. Developers may do everything, compiler authors generate and do not modify, and in
production one only looks. From the root of the checkout::

    pip install -e '.[cli,tools]' mcp
    export CAPGATE_POLICY=examples/mcp_tools/policy.json CAPGATE_MODE=compiler_author
    uvicorn --factory examples.mcp_tools.app:create_app --port 8003  # an MCP client finds it at localhost:8003/mcp/

Its tests: ``python -m pytest examples/mcp_tools``.
"""

from __future__ import annotations

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import Scope

from capgate import CapabilityMiddleware, CompilerTool, Settings
from capgate.capabilities.mcp import GatedMCP

#: What calling a tool is. A tool that is not in here is nobody's to call.
ACTIONS = {"inspect_module": "tool.inspect", "generate_module": "tool.generate", "modify_module": "tool.modify"}


def create_server(modules: dict[str, str]) -> MCPServer:
    """Make the tools, which work on ``modules``: their source by name."""
    server = MCPServer("workshop")

    @server.tool()
    def inspect_module(name: str) -> str:
        """The source of a module."""
        if name not in modules:
            raise ToolError("there is no such module")
        return modules[name]

    @server.tool()
    def generate_module(name: str, source: str) -> str:
        """Add a module that did not exist."""
        if name in modules:
            raise ToolError("there is such a module already")
        modules[name] = source
        return name

    @server.tool()
    def modify_module(name: str, source: str) -> str:
        """Replace the source of a module."""
        if name not in modules:
            raise ToolError("there is no such module")
        modules[name] = source
        return name

    @server.tool()
    def forget_everything() -> str:
        """Somebody added this tool, and told no policy what it is."""
        modules.clear()
        return "forgotten"

    return server


def create_app(settings: Settings | None = None, modules: dict[str, str] | None = None) -> Starlette:
    """Make the application. Without ``settings``, those of the environment count, at start-up."""
    server = create_server({} if modules is None else modules)
    inside = server.streamable_http_app(streamable_http_path="/")
    gated = GatedMCP(inside, action=ACTIONS, actor=agent)
    app = Starlette(routes=[Mount("/mcp", gated)], lifespan=lambda app: server.session_manager.run())
    app.add_middleware(CapabilityMiddleware, settings=settings)
    return app


def agent(scope: Scope) -> CompilerTool:
    """Say who calls the tools. An application with authentication would take it from there."""
    return CompilerTool("mcp-client")
