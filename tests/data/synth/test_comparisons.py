from raggym_env.data.synth.comparisons import ALIKE, FIRST, KIN, VIA
from raggym_env.data.synth.schema import RULES


def test_comparisons_use_relations_that_exist():
    for kind, rules in RULES.items():
        names = {rule.name for rule in rules}
        assert {row.relation for row in (*FIRST[kind], *ALIKE.get(kind, ()))} <= names


def test_comparisons_go_through_relations_whose_values_are_entities():
    assert set(VIA) <= {rule.name for rules in RULES.values() for rule in rules if rule.target}


def test_family_relations_lead_from_people_to_people():
    family = {rule.name for rule in RULES["person"] if rule.target == "person"}

    assert {step for path in KIN for step in path} <= family
