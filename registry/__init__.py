"""Where nodes find each other and where shared facts live.

`registry.contract` says what a registry promises; `registry.embedded` keeps
the promises on one machine, `registry.zookeeper` over many.
"""
