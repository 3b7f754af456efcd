-- ca_certificates_known: every CA of this installation, also those that are trusted no more; the first one first
select kind, fingerprint, certificate_pem, state from ca_certificates order by created_at, kind desc, fingerprint
