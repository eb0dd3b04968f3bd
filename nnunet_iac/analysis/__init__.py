"""From what runs wrote to tables, figures and pages; nothing here trains or changes a run."""
