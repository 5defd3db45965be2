"""The one implementation that every notebook of the course uses. Read the lessons in this order:

attention, model, loss, corpus, generation, training, pretrained, parameters, weights.

helpers.machine holds what the computer needs, helpers.course what a course needs around its lessons. Imports run
downwards only: course -> lessons -> machine.
"""
