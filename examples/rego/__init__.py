"""The same policy twice: as a document (``policy.json``) and in Rego (the folder ``policy``), with one set of fixtures.

With OPA's compiler::

    opa build -t wasm -e orders/decision -b policy -o bundle.tar.gz

Then the bundle answers the fixtures as the document does, and runs where a module runs::

    capgate test policy.json
    capgate inspect bundle.tar.gz
    capgate test bundle.tar.gz --entrypoint orders/decision
    CAPGATE_ARTIFACT=bundle.tar.gz CAPGATE_ENTRYPOINT=orders/decision uvicorn …
"""
