-- token_keys_trusted: the keys whose tokens are accepted, and which of them signs
select kid, audience, public_key_pem, state from token_keys where state <> 'retired' order by kid
