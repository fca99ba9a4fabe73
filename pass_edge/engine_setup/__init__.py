"""What an engine is made of, chosen once from its settings, its model and this machine, in this order:

loaded_model.py     load the model and its lookahead, as this machine runs them
schedule_choice.py  choose the schedule, how many tokens it may draft ahead, and the states kept for them
sessions.py         open the batcher, and after the draft sources the sessions
draft_sources.py    open what they draft with
"""
