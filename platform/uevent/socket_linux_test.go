package uevent

import (
	"os"
	"testing"
	"time"
)

// A Read that waits ends with Stop, with and without the right to send; and so do later ones.
func TestReadStops(t *testing.T) {
	for _, may := range []bool{true, false} {
		s, err := Open()
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case !may:
			s.port = 0
		case s.port == 0:
			if os.Getuid() == 0 {
				t.Error("root may not send a socket a message of its own")
			}
			t.Log("a message of the socket to itself takes CAP_NET_ADMIN: only the way without it is tried")
		}
		ended := make(chan struct{})
		stop := make(chan struct{})
		go func() {
			defer close(ended)
			b := make([]byte, Max)
			for {
				_, err := s.Read(b)
				select {
				case <-stop:
					return
				default:
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		}()
		time.Sleep(50 * time.Millisecond) // it waits
		close(stop)
		s.Stop()
		<-ended
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		s.Stop() // and after that it does nothing
	}
}
