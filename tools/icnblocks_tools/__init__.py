"""The commands: icn-fetch, icn-publish, icn-show, icn-verify. Thin."""
