"""The cost-aware schedule "auto": draft what is worth its rows in the next pass (docs/planner.md).

planner.py           the schedule: learn from the last pass, draft for the next one
tree_selection.py    the most valuable part of a draft, given the cost of rows
draft_model_use.py   when a conversation asks the draft model, what it reads, and what came of it
trial_budget.py      what drafts of a draft model may cost before they have gained as much
grammar_guide.py     tokens that a grammar forces or forbids
acceptance.py        acceptance rates of drafts, by the evidence for them
draft_statistics.py  statistics of draft sources, shared by all conversations
cost_model.py        the cost of a pass over n rows on this machine
pass_times.py        how long passes take, after few tokens and after many
"""
