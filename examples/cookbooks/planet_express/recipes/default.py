"""Put a parcel down, and weigh it whenever it changed."""

from flock.recipe import execute, file, node

folder = node["planet_express"]["folder"]

file(f"{folder}/parcel", content="foobar\n").notifies("run", "execute[weigh the parcel]")

execute(
    "weigh the parcel",
    command=f"wc -c < {folder}/parcel > {folder}/parcel.weight",
    action="nothing",
)
