"""What ``swift sft --external_plugins "$(omnisift plugin-path)"`` runs before anything else."""

from omnisift.integrations.ms_swift.register import register

register()
