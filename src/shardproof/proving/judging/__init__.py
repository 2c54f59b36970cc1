"""Judge what was recorded: layouts, outcomes, causes, findings. Never imports `running`."""
