"""Forms: how the values of a type are written as JSON and read from it, so that they come out equal.

form          writes and reads the values of one type
equality      walks a type's schema: changes what can be helped, refuses what cannot
unions        whether members of a union can be told apart in JSON
facts         what to ask of the values of one position
guards        asks it, as a value is written
finite        literals and enums: all their values are tried
wire_names    what fields are called in JSON
core_schemas  what one node of pydantic's schema says of itself
"""
