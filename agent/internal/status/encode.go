package status

import (
	"encoding/json"
	"fmt"
)

// MaxEncoded is the most bytes that Encode returns. A Status that is filled to MaxNamed
// everywhere stays below it, unless there are hundreds of lists.
const MaxEncoded = maxStatus

// Encode returns the status as it is sent from one process to another, [Decode] makes it
// again: with the first MaxNamed of what has no other bound, and texts of 2000 bytes at
// most. A status that is longer than MaxEncoded all the same is an error.
func Encode(s Status) ([]byte, error) {
	b, err := json.Marshal(cut(s))
	if err != nil {
		return nil, fmt.Errorf("status: %w", err)
	}
	if len(b) > MaxEncoded {
		return nil, fmt.Errorf("status: %d bytes, at most %d can be sent", len(b), MaxEncoded)
	}
	return b, nil
}

// Decode is the inverse of Encode. A status of another format is an error.
func Decode(b []byte) (*Status, error) { return decodeStatus(b) }
