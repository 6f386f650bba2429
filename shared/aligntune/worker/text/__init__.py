"""From rows and prompts to tokens: chat templates, what they leave out, and what ends a text."""
