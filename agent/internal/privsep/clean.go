package privsep

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Clean makes untrusted text fit for a log line or a terminal: one line of at most most bytes (plus a
// mark where it was cut), with control characters, marks that change the direction of writing, and
// bytes that are not UTF-8 spelled out.
func Clean(text string, most int) string {
	var b strings.Builder
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRuneInString(text[i:])
		part := text[i : i+n]
		switch {
		case r == utf8.RuneError && n == 1, r < 0x20, r == 0x7f:
			part = fmt.Sprintf(`\x%02x`, text[i])
		case !unicode.IsPrint(r):
			part = fmt.Sprintf(`\u%04x`, r)
		}
		if b.Len()+len(part) > most {
			b.WriteString("…")
			break
		}
		b.WriteString(part)
		i += n
	}
	return b.String()
}
