"""The cost-aware schedule "auto": which drafts are worth their rows in the next pass (docs/planner.md).

planner.py           the schedule: learn from the last pass, draft for the next one
tree_selection.py    the most valuable part of a draft, at what passes cost
acceptance.py        acceptance rates by kind of draft
draft_statistics.py  what is learnt of draft sources, for all conversations
cost_model.py        what a pass over n rows costs on this machine
"""
