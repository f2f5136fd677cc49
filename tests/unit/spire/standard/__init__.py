"""The clauses of the SPIFFE standards, case by case: what they call valid is taken, what they forbid is refused.

The documents are SPIFFE-ID, X509-SVID and JWT-SVID of the SPIFFE project, in the form in which SPIFFE-ID 2.1 and 2.2
list the characters. A clause is written as document and section.
"""
