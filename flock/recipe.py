r"""The words a recipe may use.

    from flock.recipe import execute, file, include_recipe, node

    file('/etc/motd', content=f"this is {node.name}\n").notifies('run', 'execute[greet]')
    execute('greet', command='wall < /etc/motd', action='nothing')

Besides the names written here, every kind of resource is a word: our own, those
of other packages, and those in the libraries of the cookbook itself. They are
looked up when a recipe imports them, so that `log` alone loads nothing else.
`FlockOfChefs` is the flock of the node that runs the recipe.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from flock.converge.chef_words import said_here
from flock.converge.compile import RECIPE_WORDS, current_compilation
from flock.converge.kinds import Kinds, stock_kind_names
from flock.converge.locks import Held
from flock.converge.properties import lazy, nearest
from flock.converge.words import NodeWord, Word, find_resource, include_recipe, library
from flock.errors import RecipeError

if TYPE_CHECKING:
    from flock.converge.resources.ansible_module import AnsibleModule
    from flock.converge.resources.ansible_playbook import AnsiblePlaybook
    from flock.converge.resources.chef_client import ChefClient
    from flock.converge.resources.clocker import Clocker
    from flock.converge.resources.cron import Cron
    from flock.converge.resources.directory import Directory
    from flock.converge.resources.dishes_dish import DishesDish
    from flock.converge.resources.dishes_sink import DishesSink
    from flock.converge.resources.execute import Execute
    from flock.converge.resources.file import File
    from flock.converge.resources.git import Git
    from flock.converge.resources.group import Group
    from flock.converge.resources.link import Link
    from flock.converge.resources.log import Log
    from flock.converge.resources.package import Package
    from flock.converge.resources.puppet_apply import PuppetApply
    from flock.converge.resources.python_block import PythonBlock
    from flock.converge.resources.remote_file import RemoteFile
    from flock.converge.resources.salt_call import SaltCall
    from flock.converge.resources.service import Service
    from flock.converge.resources.template import Template
    from flock.converge.resources.user import User
    from flock.fleet import FlockOfChefs

    # A word takes what its kind's class takes, and returns the resource.
    ansible_module = AnsibleModule
    ansible_playbook = AnsiblePlaybook
    chef_client = ChefClient
    clocker = Clocker
    cron = Cron
    directory = Directory
    dishes_dish = DishesDish
    dishes_sink = DishesSink
    execute = Execute
    file = File
    git = Git
    group = Group
    link = Link
    log = Log
    package = Package
    puppet_apply = PuppetApply
    python_block = PythonBlock
    remote_file = RemoteFile
    salt_call = SaltCall
    service = Service
    template = Template
    user = User

__all__ = [
    "FlockOfChefs",
    "ansible_module",
    "ansible_playbook",
    "chef_client",
    "clocker",
    "cron",
    "directory",
    "dishes_dish",
    "dishes_sink",
    "execute",
    "file",
    "find_resource",
    "git",
    "group",
    "held",
    "include_recipe",
    "lazy",
    "library",
    "link",
    "log",
    "node",
    "package",
    "puppet_apply",
    "python_block",
    "remote_file",
    "salt_call",
    "service",
    "template",
    "user",
]

node = NodeWord()
held = Held


def __getattr__(name: str) -> Any:
    """Look up a word that is not written above.

    Raises:
        RecipeError: in a recipe, for a word that nobody knows.
        AttributeError: elsewhere.
    """
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    compilation = current_compilation()
    if compilation is not None and name in compilation.words:
        return compilation.words[name]
    if name == "FlockOfChefs":
        return importlib.import_module("flock.fleet").FlockOfChefs
    kinds = Kinds() if compilation is None else compilation.kinds
    if kinds.has(name):
        return Word(name)
    if compilation is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    known = [*RECIPE_WORDS, *compilation.words, *kinds.names()]
    raise RecipeError(f"unknown word or kind {name!r}{said_here(name) or nearest(name, known)}")


def __dir__() -> list[str]:
    """Return the words, for completion."""
    return sorted({*RECIPE_WORDS, *stock_kind_names()})
