"""Reading questions and found passages without a language model: what the `lexical` policy and the `mini` reward share.

text.py        words, names, dates and numbers in a text
question.py    what a question asks: the type of its answer, its names, what it compares
reader.py      the found passages read for one question: evidence, bridges, candidate answers
compare.py     answers by comparing what was found of two names
options.py     answers and queries for questions with options
answers.py     the possible answers in a state
"""
