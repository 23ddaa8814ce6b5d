"""What Chef's words that are none of ours are called here, for error messages."""

from __future__ import annotations

from collections.abc import Mapping

_INSTEAD: Mapping[str, str] = {
    "apt_package": "package",
    "apt_update": "execute('apt-get update')",
    "bash": "execute",
    "batch": "execute",
    "Chef": "log('…'), or Python's logging",
    "chef_gem": "pip in our own virtual environment",
    "cookbook_file": "remote_file, with source= a path below the cookbook's files/",
    "cron_d": "cron",
    "data_bag": "FlockOfChefs.globals, or node attributes",
    "data_bag_item": "FlockOfChefs.globals, or node attributes",
    "dnf_package": "package",
    "dpkg_package": "package, with source=",
    "edit_resource": "find_resource",
    "gem_package": "execute",
    "http_request": "python_block",
    "include_attribute": "nothing: the attribute files of all cookbooks in use are read",
    "mount": "ansible_module('mount', …)",
    "ohai": "node['…']: facts are found anew for each run",
    "platform_family": "node['platform_family']",
    "resources": "find_resource",
    "rpm_package": "package, with source=",
    "ruby_block": "python_block",
    "script": "execute",
    "search": "FlockOfChefs.search('roles:web')",
    "sysctl": "ansible_module('sysctl', …)",
    "systemd_service": "service",
    "systemd_unit": "file or template, and service",
    "tag": "node.normal['tags'] = ['…']",
    "tagged": "'…' in node.read('tags', [])",
    "value_for_platform": "node['platform']",
    "yum_package": "package",
}

_OF_NODE: Mapping[str, str] = {
    "attribute": "node.read('a.b')",
    "automatic_attrs": "node['…']",
    "override_attrs": "node.override",
    "recipe": "'cookbook::recipe' in node.recipes",
    "role": "'web' in node.roles",
    "save": "nothing: node.normal lasts by itself",
    "set": "node.normal",
    "tag": "node.normal['tags']",
}


def said_here(word: str) -> str:
    """Return ` (here: file)` for a word of Chef's that has another name here, else nothing."""
    return f" (here: {_INSTEAD[word]})" if word in _INSTEAD else ""


def said_of_node(word: str) -> str:
    """Return the same for what Chef's `node` answers to."""
    return f" (here: {_OF_NODE[word]})" if word in _OF_NODE else ""
