package privsep

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"
)

// clean makes text of a role fit to stand in a log line: one line of at most most bytes
// (plus the mark that something was cut), in which control characters, marks that change
// the direction of writing, and bytes that are no text are spelled out.
func clean(text string, most int) string {
	var b strings.Builder
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRuneInString(text[i:])
		var part string
		switch {
		case r == utf8.RuneError && n == 1:
			part = fmt.Sprintf(`\x%02x`, text[i])
		case r < 0x20, r == 0x7f:
			part = fmt.Sprintf(`\x%02x`, r)
		case !unicode.IsPrint(r):
			part = fmt.Sprintf(`\u%04x`, r)
		default:
			part = text[i : i+n]
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

// isReset tells whether an error of a socket means that the other side closed it.
func isReset(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}
