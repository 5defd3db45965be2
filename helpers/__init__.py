"""The one implementation that every notebook of the course uses. Read the modules in this order:

assets, runtime, attention, model, generation, pretrained, corpus, training, parameters, claims, plots, exercises.
"""
