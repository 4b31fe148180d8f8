"""The file that ``swift sft --external_plugins "$(omnisift plugin-path)"`` runs first."""

from omnisift.integrations.ms_swift.register import register

register()
