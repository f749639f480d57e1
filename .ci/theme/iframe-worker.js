// Lets the search of the site work in pages that are opened from a folder. Browsers start no worker there, so the worker's
// script runs in a hidden frame. The offline plugin would load https://github.com/squidfunk/iframe-worker for that.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    #frame;

    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.srcdoc = `<script src="${new URL(url, location)}"></script>`;
      this.#frame = new Promise((resolve) => {
        frame.onload = () => {
          frame.contentWindow.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", {data}));
          resolve(frame.contentWindow);
        };
      });
      document.body.append(frame);
    }

    async postMessage(data) {
      (await this.#frame).dispatchEvent(new MessageEvent("message", {data}));
    }
  };
}
