"""Rule-based reading of questions and retrieved passages, without a language model. `lexical` and `mini` use it.

text.py        words, terms, keys and names of a text
spans.py       dates, names, numbers and definitions in a sentence
pages.py       passages cut into sentences
question.py    a question parsed: type of the answer, names, comparison
matches.py     passages matched with a question once, for all states in which they are read
reader.py      passages read for a question: evidence, bridges, possible answers
mentions.py    the best mention of a string in the passages
compare.py     answers to comparison questions
options.py     answers and queries for multiple-choice questions
answers.py     possible answers in a state
"""
