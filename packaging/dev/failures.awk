# Says once more, from the log of "go test -v", what each failed test wrote: a long log is read from its end.
# Usage: awk -f packaging/dev/failures.awk LOG
/^=== (RUN|CONT|NAME) / { name = $3; next }
/^ *--- FAIL: / { if (count[$3]) { failed[++n] = $3 }; next }
/^    [^ ].*_test\.go:[0-9]+: / {
	more = 0
	if ($0 ~ /: (console|what failed):$/) next
	more = 6
	said[name, count[name]++ % 12] = substr($0, 1, 600)
	next
}
/^        / { if (more-- > 0) { at = (count[name] - 1) % 12; said[name, at] = said[name, at] "\n" substr($0, 1, 600) }; next }
{ more = 0 }
END {
	for (i = 1; i <= n; i++) {
		name = failed[i]
		print "== what " name " wrote:"
		first = count[name] > 12 ? count[name] - 12 : 0
		for (j = first; j < count[name]; j++) print said[name, j % 12]
	}
}
