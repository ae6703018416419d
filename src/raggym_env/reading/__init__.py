"""Reading questions and found passages without a language model: what the `lexical` policy and the `mini` reward share.

text.py        the words of a text, and the names among them
spans.py       dates, names, numbers and definitions in a sentence
pages.py       passages cut into sentences
question.py    what a question asks: the type of its answer, its names, what it compares
reader.py      the found passages read for one question: evidence, bridges, candidate answers
mentions.py    how the found passages speak of a text
compare.py     answers by comparing what was found of two names
options.py     answers and queries for questions with options
answers.py     the possible answers in a state
"""
