"""The pages, the fragments that keep them live, and the actions behind their forms.

Every action is a form that works without JavaScript: it answers with a redirect, or with a page
that says what is wrong. A script that asks for JSON gets the same as JSON.

A page is made of a view, a dictionary for its template. Each has ``available``, whether there is
something to show, and ``problems``, what is away; that of a page with a fragment has the
fragment's address and may have ``busy``, when it will change by itself.
"""
