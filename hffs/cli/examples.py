"""What ``--help`` shows beside the options: the commands by purpose, and examples of each.

Used by ``parser`` and ``options``. Every example is a command line that parses (a test tries them). No state.
"""

from __future__ import annotations

from typing import Final

# The commands of ``hffs --help``, in the order in which a new user meets them. One that is not named comes last.
GROUPS: Final = {
    "mounts": ("mount", "unmount", "restart", "bandwidth"),
    "see what happens": ("status", "map", "du"),
    "bring it here": ("hydrate", "verify"),
    "look at the Hub": ("ls", "info"),
    "this machine": ("cache", "config", "doctor", "completion"),
}

_FIRST: Final = (
    ("hffs mount openai/whisper-tiny ~/whisper", "its files are there at once"),
    ("hffs status --watch", "what is being fetched, and why"),
    ("hffs hydrate ~/whisper", "fetch and verify all of it"),
    ("hffs unmount ~/whisper", "what was fetched is kept"),
)

EXAMPLES: Final = {
    "": _FIRST,
    "mount": (
        ("hffs mount openai/whisper-tiny ~/whisper", ""),
        ("hffs mount datasets/squad@refs/convert/parquet ~/squad", "a revision"),
        ("hffs mount acme/big ~/big --include '*.json'", "only these files"),
        ("hffs mount acme/big ~/big --cache-size 50G --bandwidth 20M", ""),
        ("hffs mount @whisper", "as whisper.toml says"),
    ),
    "unmount": (("hffs unmount ~/whisper", ""), ("hffs unmount --lazy ~/whisper", "though it is in use")),
    "restart": (("hffs restart ~/whisper", ""),),
    "bandwidth": (
        ("hffs bandwidth ~/whisper", "tells the limit"),
        ("hffs bandwidth ~/whisper 10M", "10 MiB a second from now on"),
        ("hffs bandwidth ~/whisper 0", "no limit any more"),
    ),
    "status": (
        ("hffs status", "every mount, a line each"),
        ("hffs status ~/whisper", "one mount, all of it"),
        ("hffs status --watch", "live, until Ctrl-C"),
        ("hffs status --watch --interval 1m --json", "an object a line, for programs"),
    ),
    "map": (("hffs map ~/whisper/model.safetensors", ""),),
    "hydrate": (
        ("hffs hydrate ~/whisper", "a mount"),
        ("hffs hydrate openai/whisper-tiny --to ./whisper", "plain files, no mount"),
        ("hffs hydrate openai/whisper-tiny --to-hf-cache", "for from_pretrained offline"),
    ),
    "verify": (
        ("hffs verify ~/whisper", "what is here of a mount"),
        ("hffs verify ~/whisper --fix", "fetch anew what is damaged"),
        ("hffs verify ./checkout --require '*.safetensors'", "any folder"),
    ),
    "ls": (("hffs ls openai/whisper-tiny", ""), ("hffs ls -r datasets/squad/plain_text", "a folder, and below")),
    "info": (("hffs info openai/whisper-tiny", ""), ("hffs info datasets/squad --json", "")),
    "du": (("hffs du ~/whisper", "a mount"), ("hffs du openai/whisper-tiny", "a repo, by type of file")),
    "cache": (
        ("hffs cache list", ""),
        ("hffs cache prune --older 30", "what nobody used for 30 days"),
        ("hffs cache pin openai/whisper-tiny", ""),
    ),
    "config": (("hffs config", "what holds, and from where"), ("hffs config --cache-size 50G --json", "")),
    "doctor": (("hffs doctor", ""), ("hffs doctor --report > report.txt", "for a bug report")),
    "completion": (
        ('eval "$(hffs completion bash)"', "in ~/.bashrc"),
        ('eval "$(hffs completion zsh)"', "in ~/.zshrc, after compinit"),
    ),
}


def examples(command: str) -> str:
    """The examples of a command as ``--help`` shows them; "" of one that has none."""
    found = EXAMPLES.get(command, ())
    if not found:
        return ""
    width = max((len(line) for line, about in found if about), default=0)
    lines = [f"  {line:<{width}}  {about}".rstrip() for line, about in found]
    return "\n".join(["examples:", *lines])
