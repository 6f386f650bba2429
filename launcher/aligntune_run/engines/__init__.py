"""What turns a plan into commands and starts them: containers, or processes in a venv."""
