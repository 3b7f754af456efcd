-- token_keys_trusted: the keys whose tokens are accepted
select kid, audience, public_key_pem from token_keys where state in ('next', 'active') order by kid
